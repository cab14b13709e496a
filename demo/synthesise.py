"""
python demo/synthesise.py --output-dir demo/data --seed 0

Synthesise an AudioSet-style parquet set with NumPy: OUTPUT_DIR/train_balanced and OUTPUT_DIR/eval.
Each row holds video_id, audio (FLAC bytes and a path), labels (machine ids) and human_labels (display names).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

CLASS_IDS = {
    "Heart sounds, heartbeat": "/m/01jg02",
    "Animal": "/m/0jbk",
    "Wild animals": "/m/01280g",
    "Bird": "/m/015p6",
    "Bird vocalization, bird call, bird song": "/m/020bb7",
    "Chirp, tweet": "/m/07pggtn",
    "Insect": "/m/03vt0",
    "Cricket": "/m/09xqv",
    "Mosquito": "/m/09f96",
    "Bee, wasp, etc.": "/m/01h3n",
    "Buzz": "/m/07pjwq1",
    "Music": "/m/04rlf",
    "Musical instrument": "/m/04szw",
    "Plucked string instrument": "/m/0fx80y",
    "Guitar": "/m/0342h",
    "Strum": "/m/07s0s5r",
    "Keyboard (musical)": "/m/05148p4",
    "Organ": "/m/013y1f",
    "Synthesizer": "/m/0l14qv",
    "Percussion": "/m/0l14md",
    "Drum kit": "/m/02hnl",
    "Drum machine": "/m/0cfdd",
    "Drum": "/m/026t6",
    "Snare drum": "/m/06rvn",
    "Bass drum": "/m/0bm02",
    "Cymbal": "/m/01qbl",
    "Hi-hat": "/m/03qtq",
    "Gong": "/m/0mbct",
    "Mallet percussion": "/m/0j45pbj",
    "Marimba, xylophone": "/m/0dwsp",
    "Glockenspiel": "/m/0dwtp",
    "Tubular bells": "/m/016622",
    "Bell": "/m/0395lw",
    "Church bell": "/m/03w41f",
    "Tuning fork": "/m/07n_g",
    "Chime": "/m/0f8s22",
    "Wind chime": "/m/026fgl",
    "Theremin": "/m/07kc_",
    "Electronic music": "/m/02lkt",
    "Wind": "/m/03m9d0z",
    "Thunderstorm": "/m/0jb2l",
    "Thunder": "/m/0ngt1",
    "Water": "/m/0838f",
    "Rain": "/m/06mb1",
    "Raindrop": "/m/07r10fb",
    "Rain on surface": "/t/dd00038",
    "Ocean": "/m/05kq4",
    "Waves, surf": "/m/034srq",
    "Fire": "/m/02_41",
    "Crackle": "/m/07pzfmf",
    "Vehicle": "/m/07yv9",
    "Motor vehicle (road)": "/m/012f08",
    "Car": "/m/0k4j",
    "Vehicle horn, car horn, honking": "/m/0912c9",
    "Truck": "/m/07r04",
    "Air horn, truck horn": "/m/05x_td",
    "Reversing beeps": "/m/02rhddq",
    "Emergency vehicle": "/m/03j1ly",
    "Police car (siren)": "/m/04qvtq",
    "Ambulance (siren)": "/m/012n7d",
    "Helicopter": "/m/09ct_",
    "Aircraft": "/m/0k5j",
    "Engine": "/m/02mk9",
    "Idling": "/m/07pb8fc",
    "Accelerating, revving, vroom": "/m/07q2z82",
    "Telephone": "/m/07cx4",
    "Telephone bell ringing": "/m/07pp8cl",
    "Telephone dialing, DTMF": "/m/02c8p",
    "Dial tone": "/m/015jpf",
    "Busy signal": "/m/01z47d",
    "Alarm": "/m/07pp_mv",
    "Alarm clock": "/m/046dlr",
    "Siren": "/m/03kmc9",
    "Civil defense siren": "/m/0dgbq",
    "Buzzer": "/m/030rvx",
    "Smoke detector, smoke alarm": "/m/01y3hg",
    "Foghorn": "/m/04fq5q",
    "Whistle": "/m/0l156k",
    "Doorbell": "/m/03wwcy",
    "Ding-dong": "/m/07r67yg",
    "Mechanisms": "/t/dd00077",
    "Clock": "/m/01x3z",
    "Tick": "/m/07qjznt",
    "Tick-tock": "/m/07qjznl",
    "Explosion": "/m/014zdl",
    "Gunshot, gunfire": "/m/032s66",
    "Machine gun": "/m/04zjc",
    "Drip": "/m/07r5v4s",
    "Liquid": "/m/04k94",
    "Sonar": "/m/0790c",
    "Beep, bleep": "/m/02fs_r",
    "Ping": "/m/07qwdck",
    "Ding": "/m/07phxs1",
    "Clicking": "/m/07qc9xj",
    "Rumble": "/m/07phhsh",
    "Hum": "/m/07rcgpl",
    "Boing": "/t/dd00121",
    "Whoosh, swoosh, swish": "/m/07rqsjt",
    "Silence": "/m/028v0c",
    "Sine wave": "/m/01v_m0",
    "Harmonic": "/m/0b9m1",
    "Chirp tone": "/m/0hdsk",
    "Sound effect": "/m/0c1dj",
    "Pulse": "/m/07pt_g0",
    "Reverberation": "/m/01b9nn",
    "Echo": "/m/01jnbd",
    "Noise": "/m/096m7z",
    "Static": "/m/07rgkc5",
    "Mains hum": "/m/06xkwv",
    "Distortion": "/m/0g12c5",
    "Cacophony": "/m/07szfh9",
    "White noise": "/m/0chx_",
    "Pink noise": "/m/0cj0r",
    "Throbbing": "/m/07p_0gm",
    "Vibration": "/m/01jwx6",
}

# AudioSet's own parents, only those among its 527 classes and only where the synthetic sound deserves them.
PARENTS = {
    "Wild animals": ["Animal"],
    "Bird": ["Wild animals"],
    "Bird vocalization, bird call, bird song": ["Bird"],
    "Chirp, tweet": ["Bird vocalization, bird call, bird song"],
    "Insect": ["Wild animals"],
    "Cricket": ["Insect"],
    "Mosquito": ["Insect"],
    "Bee, wasp, etc.": ["Insect"],
    "Musical instrument": ["Music"],
    "Plucked string instrument": ["Musical instrument"],
    "Guitar": ["Plucked string instrument"],
    "Strum": ["Guitar"],
    "Keyboard (musical)": ["Musical instrument"],
    "Organ": ["Keyboard (musical)"],
    "Synthesizer": ["Keyboard (musical)"],
    "Electronic music": ["Music"],
    "Percussion": ["Musical instrument"],
    "Drum kit": ["Percussion"],
    "Drum machine": ["Drum kit"],
    "Drum": ["Percussion"],
    "Snare drum": ["Drum"],
    "Bass drum": ["Drum"],
    "Cymbal": ["Percussion"],
    "Hi-hat": ["Cymbal"],
    "Gong": ["Percussion"],
    "Mallet percussion": ["Percussion"],
    "Marimba, xylophone": ["Mallet percussion"],
    "Glockenspiel": ["Mallet percussion"],
    "Tubular bells": ["Percussion"],
    "Church bell": ["Bell"],
    "Tuning fork": ["Bell"],
    "Chime": ["Bell"],
    "Wind chime": ["Chime"],
    "Theremin": ["Musical instrument"],
    "Thunder": ["Thunderstorm"],
    "Rain": ["Water"],
    "Raindrop": ["Rain"],
    "Rain on surface": ["Rain"],
    "Ocean": ["Water"],
    "Waves, surf": ["Ocean"],
    "Crackle": ["Fire"],
    "Motor vehicle (road)": ["Vehicle"],
    "Car": ["Motor vehicle (road)"],
    "Truck": ["Motor vehicle (road)"],
    "Vehicle horn, car horn, honking": ["Car", "Alarm"],
    "Air horn, truck horn": ["Truck", "Alarm"],
    "Reversing beeps": ["Truck"],
    "Emergency vehicle": ["Motor vehicle (road)"],
    "Police car (siren)": ["Emergency vehicle", "Siren"],
    "Ambulance (siren)": ["Emergency vehicle", "Siren"],
    "Aircraft": ["Vehicle"],
    "Helicopter": ["Aircraft"],
    "Idling": ["Engine"],
    "Accelerating, revving, vroom": ["Engine"],
    "Telephone": ["Alarm"],
    "Telephone bell ringing": ["Telephone"],
    "Telephone dialing, DTMF": ["Telephone"],
    "Dial tone": ["Telephone"],
    "Busy signal": ["Telephone"],
    "Alarm clock": ["Alarm"],
    "Siren": ["Alarm"],
    "Civil defense siren": ["Siren"],
    "Buzzer": ["Alarm"],
    "Smoke detector, smoke alarm": ["Alarm"],
    "Foghorn": ["Alarm"],
    "Whistle": ["Alarm"],
    "Doorbell": ["Alarm"],
    "Ding-dong": ["Doorbell"],
    "Clock": ["Mechanisms"],
    "Tick": ["Clock", "Clicking"],
    "Tick-tock": ["Clock"],
    "Gunshot, gunfire": ["Explosion"],
    "Machine gun": ["Gunshot, gunfire"],
    "Drip": ["Liquid"],
    "Harmonic": ["Sine wave"],
    "Chirp tone": ["Sine wave"],
    "Static": ["Noise"],
    "Mains hum": ["Noise"],
    "Distortion": ["Noise"],
    "Cacophony": ["Noise"],
    "White noise": ["Noise"],
    "Pink noise": ["Noise"],
    "Throbbing": ["Noise"],
    "Vibration": ["Noise"],
}

SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)
PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)


def parse_arguments():
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-clips", type=int, default=400)
    parser.add_argument("--eval-clips", type=int, default=160)
    return parser.parse_args()


# Building blocks. Every t is the time in seconds [n]; every sound is a float64 array [n] of any level.


def fast_size(n):
    """The next power of two: clips have lengths with large prime factors, which a Fourier transform hates."""
    return 1 << (n - 1).bit_length()


def convolve(sound, response):
    """The first len(sound) samples of the convolution."""
    size = fast_size(len(sound) + len(response))
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)[:len(sound)]


def phase(frequency, t):
    """The running phase [n] of a frequency in Hz, a number or [n]."""
    return 2 * np.pi * np.cumsum(np.broadcast_to(frequency, t.shape)) * (t[1] - t[0])


def tone(frequency, t, partials=(1.0,)):
    """Harmonics of the given amplitudes, without those which would alias."""
    angle = phase(frequency, t)
    count = min(len(partials), int(0.5 / (t[1] - t[0]) / np.max(frequency)))
    # sin(kx) = 2 cos(x) sin((k - 1)x) - sin((k - 2)x) spares a sine for each harmonic.
    turn, before, current = 2 * np.cos(angle), np.zeros_like(angle), np.sin(angle)
    out = partials[0] * current
    for amplitude in partials[1:count]:
        before, current = current, turn * current - before
        if amplitude:
            out += amplitude * current
    return out


def sawtooth(frequency, t, count=16):
    return tone(frequency, t, [1 / k for k in range(1, count + 1)])


def square(frequency, t, count=15):
    return tone(frequency, t, [k % 2 / k for k in range(1, count + 1)])


def coloured_noise(rng, t, exponent=0.0, low=0.0, high=np.inf):
    """Noise whose power falls as 1 / f ** exponent, between two frequencies in Hz."""
    size = fast_size(len(t))
    frequency = np.fft.rfftfreq(size, t[1] - t[0])
    spectrum = np.fft.rfft(rng.standard_normal(len(t)), size)
    if exponent:
        spectrum *= np.maximum(frequency, 20.0) ** (-exponent / 2)
    spectrum[(frequency < low) | (frequency > high)] = 0
    noise = np.fft.irfft(spectrum, size)[:len(t)]
    return noise / (noise.std() + 1e-12)


def wander(rng, t, points_per_second, low, high):
    """A smooth random curve [n] between low and high."""
    count = max(3, int(t[-1] * points_per_second) + 2)
    knots = rng.uniform(low, high, count)
    return np.interp(t, np.linspace(0, t[-1], count), knots)


def decay(t, seconds):
    return np.exp(-t / seconds)


def gate(t, period, duty):
    """On and off with ramps of about 3 ms, since a hard edge would click."""
    position = t % period
    return np.clip(np.minimum(position, duty * period - position) / 0.003, 0, 1)


def place(t, starts, make, length=6.0):
    """The sum of make(local time, index) begun at each start, heard for length seconds."""
    out = np.zeros_like(t)
    rate = 1 / (t[1] - t[0])
    for index, start in enumerate(starts):
        first = int(start * rate)
        count = min(len(t) - first, int(length * rate))
        if count > 64:
            out[first:first + count] += make(t[:count], index)
    return out


def steps(rng, t, slowest, fastest, jitter=0.0):
    """Start times of a steady rhythm whose period lies between fastest and slowest seconds."""
    period = rng.uniform(fastest, slowest)
    starts = np.arange(rng.uniform(0, period / 2), t[-1], period)
    return np.maximum(starts + jitter * period * rng.standard_normal(len(starts)), 0)


def poisson(rng, t, per_second):
    return np.sort(rng.uniform(0, t[-1], rng.poisson(per_second * t[-1]) + 1))


def grains(rng, t, per_second, length, low, high):
    """A shower of short decaying noise bursts between two frequencies."""
    train = np.zeros_like(t)
    hits = rng.integers(0, len(t), int(per_second * t[-1]) + 1)
    np.add.at(train, hits, rng.exponential(1.0, len(hits)) * rng.choice([-1, 1], len(hits)))
    kernel = decay(t, length) * coloured_noise(rng, t, 0.0, low, high)
    return convolve(train, kernel)


def pluck(rng, frequency, t, brightness=0.5, damping=0.996):
    """Karplus-Strong: a loop of noise, averaged with its neighbour at each pass."""
    period = max(2, round(1 / (t[1] - t[0]) / frequency))
    loop = rng.uniform(-1, 1, period)
    loop = brightness * loop + (1 - brightness) * np.roll(loop, 1)
    # The spectrum of one pass raised to the number of passes gives every pass at once, without a slow loop.
    spectrum = np.fft.rfft(loop)
    turn = np.exp(-2j * np.pi * np.arange(len(spectrum)) / period)
    passes = np.arange(len(t) // period + 1)[:, None]
    return np.fft.irfft(spectrum * (damping * (1 + turn) / 2) ** passes, period).ravel()[:len(t)]


def melody(rng, t, root, note, length, slowest=0.5, fastest=0.15):
    """A pentatonic walk above root Hz played by note(frequency, local time)."""
    starts = steps(rng, t, slowest, fastest)
    degrees = rng.choice(PENTATONIC, len(starts))
    return place(t, starts, lambda local, i: note(root * 2 ** (degrees[i] / 12), local), length)


def bell_tone(frequency, t, ratios, length):
    nyquist = 0.5 / (t[1] - t[0])
    return sum(decay(t, length / (1 + k)) * np.sin(2 * np.pi * frequency * ratio * t) / (1 + 0.5 * k)
               for k, ratio in enumerate(ratios) if frequency * ratio < nyquist)


def echoes(sound, t, delay, gain, count):
    """Repeats of a sound, each weaker than the last."""
    return place(t, [delay * i for i in range(count + 1)], lambda local, i: sound[:len(local)] * gain ** i)


def reverberate(rng, sound, t, length):
    response = coloured_noise(rng, t) * decay(t, length)
    response[0] += 8
    return convolve(sound, response)


# The sounds: (rng, t [n]) -> samples [n].


def sine_wave(rng, t):
    return tone(np.exp(rng.uniform(np.log(150), np.log(5000))), t)


def harmonic(rng, t):
    return tone(rng.uniform(100, 600), t, rng.uniform(0.2, 1, 8))


def chirp_tone(rng, t):
    low, high, period = rng.uniform(100, 600), rng.uniform(2000, 7000), rng.uniform(0.5, 3)
    sweep = t % period / period
    return tone(low * (high / low) ** (sweep if rng.random() < 0.5 else 1 - sweep), t)


def white_noise(rng, t):
    return coloured_noise(rng, t)


def pink_noise(rng, t):
    return coloured_noise(rng, t, 1.0)


def static(rng, t):
    crackle = grains(rng, t, rng.uniform(100, 400), 0.001, 1000, 8000)
    return coloured_noise(rng, t) * wander(rng, t, 20, 0.05, 0.6) + crackle / (crackle.std() + 1e-12)


def mains_hum(rng, t):
    hum = tone(rng.choice([50, 60]), t, [1, 0.7, 0.3, 0.5, 0.1, 0.3, 0.05, 0.2])
    return hum + 0.02 * coloured_noise(rng, t)


def distortion(rng, t):
    chord = sum(tone(rng.uniform(80, 130) * ratio, t) for ratio in (1, 1.5, 2))
    return np.tanh(rng.uniform(8, 30) * chord) + 0.1 * coloured_noise(rng, t)


def cacophony(rng, t):
    return sum(square(wander(rng, t, 4, 150, 1500), t) * wander(rng, t, 6, 0, 1) for _ in range(6)) \
        + coloured_noise(rng, t) * wander(rng, t, 8, 0, 1)


def throbbing(rng, t):
    beat = (0.5 + 0.5 * np.sin(phase(rng.uniform(2, 6), t))) ** 2
    return beat * (tone(rng.uniform(45, 90), t, [1, 0.6, 0.3]) + 0.2 * coloured_noise(rng, t, 2.0, 0, 400))


def vibration(rng, t):
    return square(rng.uniform(120, 190), t, 9) * gate(t, rng.uniform(0.6, 1.5), 0.6) \
        + 0.1 * coloured_noise(rng, t, 0, 100, 2000)


def pulse(rng, t):
    pitch = rng.uniform(200, 1200)
    return place(t, steps(rng, t, 0.5, 0.1), lambda local, i: tone(pitch, local) * decay(local, 0.02), 0.2)


def silence(rng, t):
    return 1e-4 * coloured_noise(rng, t)


def dial_tone(rng, t):
    low, high = [(350, 440), (425, 425), (400, 450)][rng.integers(3)]
    return tone(low, t) + tone(high, t)


def busy_signal(rng, t):
    return (tone(480, t) + tone(620, t)) * gate(t, rng.uniform(0.5, 1.0), 0.5)


def dialing(rng, t):
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477)
    period = rng.uniform(0.15, 0.3)
    starts = np.arange(0, t[-1], period)
    keys = rng.integers(0, 12, len(starts))

    def press(local, i):
        return tone(rows[keys[i] // 3], local) + tone(columns[keys[i] % 3], local)

    return place(t, starts, press, rng.uniform(0.5, 0.8) * period)


def telephone_bell(rng, t):
    pitch = rng.uniform(900, 1600)
    strikes = np.arange(0, t[-1], 1 / rng.uniform(18, 26))

    def strike(local, i):
        return bell_tone(pitch * (1 + 0.19 * (i % 2)), local, (1, 2.4, 3.9), 0.05)

    return place(t, strikes, strike, 0.25) * gate(t, rng.uniform(1.5, 3.0), 0.6)


def wail(rng, t):
    low, high = rng.uniform(500, 700), rng.uniform(1200, 1700)
    swing = 0.5 - 0.5 * np.cos(phase(rng.uniform(0.2, 0.6), t))
    return tone(low + (high - low) * swing, t, [1, 0.4, 0.3, 0.15])


def yelp(rng, t):
    swing = t * rng.uniform(2.5, 5) % 1
    return tone(rng.uniform(550, 700) * 2 ** (swing * 1.3), t, [1, 0.4, 0.3, 0.15])


def two_tone(rng, t):
    low = rng.uniform(400, 700)
    return square(np.where(t % 1.2 < 0.6, low, low * rng.uniform(1.25, 1.45)), t, 7)


def civil_defense(rng, t):
    rise = np.clip(t / t[-1] * rng.uniform(1.2, 2), 0, 1)
    return sawtooth(rng.uniform(100, 180) + rng.uniform(280, 400) * rise, t, 8)


def foghorn(rng, t):
    return tone(rng.uniform(70, 140), t, [1, 0.8, 0.6, 0.4, 0.3, 0.2]) * gate(t, rng.uniform(3, 5), 0.7)


def car_horn(rng, t):
    low = rng.uniform(330, 440)
    honks = gate(t, rng.uniform(0.5, 1.6), rng.uniform(0.4, 0.8))
    return (sawtooth(low, t) + sawtooth(low * 1.26, t)) * honks


def air_horn(rng, t):
    low = rng.uniform(150, 260)
    blast = sum(sawtooth(low * ratio, t, 24) for ratio in (1, 1.19, 1.5))
    return (blast + 0.3 * coloured_noise(rng, t)) * gate(t, rng.uniform(1.2, 2.5), 0.8)


def reversing_beeps(rng, t):
    return tone(rng.uniform(1000, 1400), t, [1, 0, 0.2]) * gate(t, rng.uniform(0.9, 1.2), 0.5) \
        + 0.02 * coloured_noise(rng, t, 1.0)


def buzzer(rng, t):
    return square(rng.uniform(100, 240), t, 41) * gate(t, rng.uniform(0.6, 2.0), 0.7)


def alarm_clock(rng, t):
    inner = rng.uniform(0.1, 0.16)
    return square(rng.uniform(1800, 2300), t, 5) * gate(t, inner, 0.5) * (t % (8 * inner) < 4 * inner)


def smoke_detector(rng, t):
    return tone(rng.uniform(2900, 3400), t, [1, 0.2]) * gate(t, rng.uniform(0.8, 1.0), 0.5) \
        * (t % 4 < 3)


def beep(rng, t):
    return tone(rng.uniform(600, 2000), t, [1, 0, 0.1]) * gate(t, rng.uniform(0.3, 1.2), 0.3)


def ping(rng, t):
    pitch = rng.uniform(1200, 3000)
    return place(t, steps(rng, t, 1.5, 0.7), lambda local, i: tone(pitch, local) * decay(local, 0.15), 1.2)


def ding(rng, t):
    pitch = rng.uniform(1500, 2600)
    return place(t, steps(rng, t, 1.6, 0.8), lambda local, i: bell_tone(pitch, local, (1, 2.7, 5.2), 0.7))


def sonar(rng, t):
    pitch = rng.uniform(700, 1300)
    single = place(t, steps(rng, t, 2.5, 1.5), lambda local, i: tone(pitch, local) * decay(local, 0.25))
    return reverberate(rng, single, t, 0.8)


def whistle(rng, t):
    flutter = 1 + 0.03 * np.sin(phase(rng.uniform(25, 45), t))
    breath = 0.1 * coloured_noise(rng, t, 0, 2000, 6000)
    return (tone(rng.uniform(2200, 3200) * flutter, t) + breath) * gate(t, rng.uniform(0.5, 1.5), 0.75)


def doorbell(rng, t):
    pitch = rng.uniform(600, 800)

    def strike(local, i):
        return bell_tone(pitch / (1 + 0.26 * (i % 2)), local, (1, 2, 3.01), 0.6)

    return place(t, np.arange(0.05, t[-1], 0.7), strike)


def church_bell(rng, t):
    pitch = rng.uniform(180, 420)
    ratios = (0.5, 1, 1.19, 1.5, 2, 2.51, 3.0, 4.1)
    return place(t, steps(rng, t, 2.0, 0.9), lambda local, i: bell_tone(pitch, local, ratios, 2.5))


def tubular_bells(rng, t):
    ratios = (1, 2.0, 2.76, 4.07, 5.4)
    root = rng.uniform(260, 400)
    return melody(rng, t, root, lambda f, local: bell_tone(f, local, ratios, 2.0), 6.0, 1.2, 0.5)


def wind_chime(rng, t):
    pitches = rng.uniform(1500, 2200) * 2 ** (np.array(PENTATONIC) / 12)
    starts = poisson(rng, t, 5)
    keys = rng.integers(0, len(pitches), len(starts))
    return place(t, starts, lambda local, i: bell_tone(pitches[keys[i]], local, (1, 2.76), 0.9), 3.0)


def tuning_fork(rng, t):
    pitch = 440 * 2 ** (rng.integers(-5, 6) / 12)
    return place(t, [0.05, 3.0], lambda local, i: tone(pitch, local) * decay(local, 2.0))


def glockenspiel(rng, t):
    root = rng.uniform(800, 1400)
    return melody(rng, t, root, lambda f, local: bell_tone(f, local, (1, 2.76, 5.4), 0.5), 2.5)


def xylophone(rng, t):
    root = rng.uniform(250, 500)
    return melody(rng, t, root, lambda f, local: bell_tone(f, local, (1, 4.0, 9.2), 0.12), 0.7, 0.35, 0.12)


def gong(rng, t):
    low = rng.uniform(70, 140)
    shimmer = sum(np.minimum(4 * t / ratio, 1) * decay(t, 4 / ratio**0.5) * tone(low * ratio, t)
                  for ratio in rng.uniform(1, 12, 8))
    return shimmer + 2 * tone(low, t) * decay(t, 3.0)


def plucked(rng, t):
    brightness = rng.uniform(0.3, 1)
    return melody(rng, t, rng.uniform(100, 260), lambda f, local: pluck(rng, f, local, brightness), 1.5)


def strum(rng, t):
    roots = rng.uniform(80, 110) * 2 ** (rng.choice([0, 3, 5, 7], 40) / 12)

    def chord(local, i):
        strings = roots[i] * np.array([1, 1.5, 2, 2.52, 3, 4])
        return place(local, 0.012 * np.arange(6), lambda inner, j: pluck(rng, strings[j], inner))

    return place(t, steps(rng, t, 0.8, 0.4), chord, 0.9)


def organ(rng, t):
    drawbars = rng.uniform(0.2, 1, 8)
    length = rng.uniform(0.8, 1.6)
    starts = np.arange(0, t[-1], length)
    roots = rng.uniform(130, 260) * 2 ** (rng.choice([0, 5, 7, -3], len(starts)) / 12)

    def chord(local, i):
        return sum(tone(roots[i] * ratio, local, drawbars) for ratio in (1, 1.26, 1.5))

    return place(t, starts, chord, length)


def synthesizer(rng, t):
    length = rng.uniform(0.08, 0.3)

    def note(frequency, local):
        return (sawtooth(frequency, local) + sawtooth(frequency * 1.007, local)) * decay(local, length)

    return melody(rng, t, rng.uniform(90, 220), note, 4 * length, 0.25, 0.11)


def theremin(rng, t):
    glide = np.exp(wander(rng, t, 1.5, np.log(300), np.log(1100)))
    return tone(glide * (1 + 0.015 * np.sin(phase(6, t))), t, [1, 0.3, 0.1])


def kick(rng, t):
    pitch = 45 + rng.uniform(60, 160) * decay(t, 0.03)
    return tone(pitch, t) * decay(t, 0.15)


def snare(rng, t):
    return (tone(rng.uniform(170, 220), t) * decay(t, 0.06) + coloured_noise(rng, t, 0, 800) * decay(t, 0.1))


def hat(rng, t):
    return coloured_noise(rng, t, 0, 5500) * decay(t, rng.uniform(0.02, 0.06))


def crash(rng, t):
    return coloured_noise(rng, t, 0, 2500) * decay(t, rng.uniform(0.5, 1.2))


def repeated(hit, slowest, fastest):
    """A generator which strikes one hit, made once since a drum sounds alike each time, steadily."""

    def generate(rng, t):
        sound = hit(rng, t)
        return place(t, steps(rng, t, slowest, fastest), lambda local, i: sound[:len(local)])

    return generate


def drum_kit(rng, t):
    beat = rng.uniform(0.16, 0.3)
    starts = np.arange(0, t[-1], beat)
    sounds = [kick(rng, t), 0.8 * snare(rng, t), 0.3 * hat(rng, t)]
    pattern = [sounds[0] + sounds[2], sounds[2], sounds[1] + sounds[2], sounds[2]]
    return place(t, starts, lambda local, i: pattern[i % 4][:len(local)])


def rain(rng, t):
    drops = grains(rng, t, rng.uniform(300, 900), 0.004, 1500, 9000)
    return drops / drops.std() + 0.5 * coloured_noise(rng, t, 0.3, 500)


def rain_on_surface(rng, t):
    drops = grains(rng, t, rng.uniform(30, 90), 0.012, 300, 3000)
    return drops / drops.std() + 0.1 * coloured_noise(rng, t, 0.5, 500)


def drip(rng, t):
    def drop(local, i):
        pitch = 900 + 250 * (i % 3)
        return tone(pitch + 900 * np.minimum(local / 0.06, 1), local) * decay(local, 0.025)

    return place(t, steps(rng, t, 1.2, 0.4, 0.1), drop, 0.3)


def wind(rng, t):
    gust = wander(rng, t, 1.5, 0.15, 1)
    howl = coloured_noise(rng, t, 0, 350, 600) * gust ** 2
    return coloured_noise(rng, t, 1.6, 60, 1500) * gust + 0.5 * howl


def waves(rng, t):
    swell = (0.5 - 0.5 * np.cos(phase(rng.uniform(0.15, 0.35), t) + rng.uniform(0, 6))) ** 2 + 0.08
    return swell * coloured_noise(rng, t, 0.7, 80)


def thunder(rng, t):
    strikes = place(t, poisson(rng, t, 0.4), lambda local, i: decay(local, 1.2) * np.minimum(local / 0.05, 1))
    roll = coloured_noise(rng, t, 2.2, 25, 400) * wander(rng, t, 6, 0.3, 1)
    return roll * (0.1 + strikes)


def fire(rng, t):
    pops = grains(rng, t, rng.uniform(8, 25), 0.003, 800, 9000)
    return pops / (pops.std() + 1e-12) + 0.15 * coloured_noise(rng, t, 1.5, 40, 2000)


def idling(rng, t):
    firing = rng.uniform(18, 32) * wander(rng, t, 5, 0.97, 1.03)
    beat = np.maximum(np.sin(phase(firing, t)), 0) ** 3
    return beat * (coloured_noise(rng, t, 1.5, 30, 1200) + tone(firing * 3, t, [1, 0.5]))


def revving(rng, t):
    firing = wander(rng, t, 1.2, 40, 180)
    return sawtooth(firing, t, 20) * (1 + 0.3 * coloured_noise(rng, t, 1.0, 50, 1000))


def helicopter(rng, t):
    blades = (0.5 + 0.5 * np.sin(phase(rng.uniform(10, 16), t))) ** 6
    return blades * coloured_noise(rng, t, 1.2, 30, 2500) + 0.1 * coloured_noise(rng, t, 0.5)


def gunshot(rng, t):
    return coloured_noise(rng, t, 0.6, 60) * decay(t, 0.06) + 2 * kick(rng, t)


def click(rng, t):
    return coloured_noise(rng, t, 0, 1500) * decay(t, 0.002)


def clicking(rng, t):
    sound = click(rng, t)
    return place(t, poisson(rng, t, rng.uniform(3, 9)), lambda local, i: sound[:len(local)])


def tick(rng, t):
    sound = click(rng, t) + tone(rng.uniform(2500, 4500), t) * decay(t, 0.004)
    return place(t, steps(rng, t, 0.5, 0.2), lambda local, i: sound[:len(local)])


def tick_tock(rng, t):
    pitch = rng.uniform(1500, 2800)

    def knock(local, i):
        return tone(pitch * (1 - 0.35 * (i % 2)), local) * decay(local, 0.008)

    return place(t, steps(rng, t, 0.7, 0.4), knock, 0.1)


def heartbeat(rng, t):
    period = rng.uniform(0.65, 1.1)
    starts = np.ravel([[start, start + 0.3 * period] for start in np.arange(0, t[-1], period)])

    def thump(local, i):
        return tone(55 - 8 * (i % 2), local) * decay(local, 0.05) * (1 - 0.4 * (i % 2))

    return place(t, starts, thump, 0.4)


def bird(rng, t):
    base, depth, rate = rng.uniform(2500, 4500), rng.uniform(0.2, 0.5), rng.uniform(15, 40)
    length = rng.uniform(0.06, 0.18)

    def syllable(local, i):
        sweep = base * (1 + depth * np.sin(2 * np.pi * rate * local) * np.minimum(local / length, 1))
        return tone(sweep, local) * np.maximum(np.sin(np.pi * np.minimum(local / length, 1)), 0)

    return place(t, steps(rng, t, 0.45, 0.2, 0.1), syllable, length)


def cricket(rng, t):
    chirp = gate(t, 1 / rng.uniform(25, 40), 0.6) * (t % rng.uniform(0.4, 0.8) < 0.25)
    return tone(rng.uniform(4000, 5200), t) * chirp


def mosquito(rng, t):
    return sawtooth(wander(rng, t, 3, 480, 640), t, 9) * wander(rng, t, 2, 0.2, 1)


def bee(rng, t):
    return sawtooth(wander(rng, t, 4, 180, 250), t, 18) * wander(rng, t, 2, 0.3, 1)


def boing(rng, t):
    pitch = rng.uniform(120, 220)

    def spring(local, i):
        wobble = pitch * (1 + 0.35 * decay(local, 0.5) * np.sin(2 * np.pi * 9 * local))
        return sawtooth(wobble, local, 8) * decay(local, 0.4)

    return place(t, steps(rng, t, 1.6, 0.9), spring)


def whoosh(rng, t):
    bump = np.exp(-0.5 * (((t % rng.uniform(0.8, 1.5)) - 0.35) / 0.1) ** 2)
    return bump * coloured_noise(rng, t, 0.8, 250, 5000)


def echo(rng, t):
    shout = place(t, steps(rng, t, 3.0, 1.8), lambda local, i: bell_tone(700, local, (1, 1.5, 2.2), 0.06))
    return echoes(shout + repeated(snare, 3.0, 1.8)(rng, t), t, rng.uniform(0.22, 0.4), 0.55, 6)


def reverberation(rng, t):
    return reverberate(rng, repeated(click, 2.0, 1.2)(rng, t), t, rng.uniform(0.4, 1.0))


SOUNDS = (
    (["Sine wave"], sine_wave),
    (["Harmonic"], harmonic),
    (["Chirp tone"], chirp_tone),
    (["White noise"], white_noise),
    (["Pink noise"], pink_noise),
    (["Static"], static),
    (["Mains hum", "Hum"], mains_hum),
    (["Distortion"], distortion),
    (["Cacophony"], cacophony),
    (["Throbbing"], throbbing),
    (["Vibration"], vibration),
    (["Pulse"], pulse),
    (["Silence"], silence),
    (["Dial tone"], dial_tone),
    (["Busy signal"], busy_signal),
    (["Telephone dialing, DTMF"], dialing),
    (["Telephone bell ringing"], telephone_bell),
    (["Siren"], wail),
    (["Police car (siren)"], yelp),
    (["Ambulance (siren)"], two_tone),
    (["Civil defense siren"], civil_defense),
    (["Foghorn"], foghorn),
    (["Vehicle horn, car horn, honking"], car_horn),
    (["Air horn, truck horn"], air_horn),
    (["Reversing beeps", "Beep, bleep"], reversing_beeps),
    (["Buzzer"], buzzer),
    (["Alarm clock", "Beep, bleep"], alarm_clock),
    (["Smoke detector, smoke alarm", "Beep, bleep"], smoke_detector),
    (["Beep, bleep"], beep),
    (["Ping"], ping),
    (["Ding", "Bell"], ding),
    (["Sonar", "Ping"], sonar),
    (["Whistle"], whistle),
    (["Ding-dong"], doorbell),
    (["Church bell"], church_bell),
    (["Tubular bells", "Bell"], tubular_bells),
    (["Wind chime"], wind_chime),
    (["Tuning fork", "Sine wave"], tuning_fork),
    (["Glockenspiel"], glockenspiel),
    (["Marimba, xylophone"], xylophone),
    (["Gong"], gong),
    (["Plucked string instrument", "Guitar"], plucked),
    (["Strum"], strum),
    (["Organ"], organ),
    (["Synthesizer", "Electronic music"], synthesizer),
    (["Theremin"], theremin),
    (["Bass drum"], repeated(kick, 0.9, 0.3)),
    (["Snare drum"], repeated(snare, 0.9, 0.3)),
    (["Hi-hat"], repeated(hat, 0.5, 0.12)),
    (["Cymbal"], repeated(crash, 2.5, 1.2)),
    (["Drum kit", "Drum machine", "Bass drum", "Snare drum", "Hi-hat"], drum_kit),
    (["Rain"], rain),
    (["Rain on surface", "Raindrop"], rain_on_surface),
    (["Drip"], drip),
    (["Wind"], wind),
    (["Waves, surf"], waves),
    (["Thunder", "Rumble"], thunder),
    (["Crackle"], fire),
    (["Idling"], idling),
    (["Accelerating, revving, vroom"], revving),
    (["Helicopter"], helicopter),
    (["Machine gun"], repeated(gunshot, 0.14, 0.08)),
    (["Gunshot, gunfire"], repeated(gunshot, 2.0, 0.8)),
    (["Clicking"], clicking),
    (["Tick"], tick),
    (["Tick-tock"], tick_tock),
    (["Heart sounds, heartbeat"], heartbeat),
    (["Chirp, tweet"], bird),
    (["Cricket"], cricket),
    (["Mosquito", "Buzz"], mosquito),
    (["Bee, wasp, etc.", "Buzz"], bee),
    (["Boing", "Sound effect"], boing),
    (["Whoosh, swoosh, swish"], whoosh),
    (["Echo"], echo),
    (["Reverberation"], reverberation),
)


def with_parents(names):
    """The names, then their ancestors, each once."""
    names = list(dict.fromkeys(names))
    for name in names:
        names.extend(parent for parent in PARENTS.get(name, ()) if parent not in names)
    return names


def normalise(sound):
    """Unit root mean square over the loud part, so that a click and a hum are about as loud."""
    loud = np.sort(np.abs(sound))[-max(1, len(sound) // 8):]
    return sound / max(np.sqrt(np.mean(loud**2)), 1e-6)


def make_clip(rng, first):
    """A clip of SOUNDS[first], sometimes with a second one -> samples [n, channels], rate, display names."""
    rate = int(rng.choice(SAMPLE_RATES))
    t = np.arange(int(np.exp(rng.uniform(0, np.log(6.0))) * rate)) / rate
    names, generate = SOUNDS[first]
    sound = generate(rng, t)
    quiet = "Silence" in names
    sound = sound if quiet else normalise(sound)
    if not quiet and rng.random() < 0.25:
        others, generate = SOUNDS[rng.integers(len(SOUNDS))]
        if "Silence" not in others:
            sound = sound + 10 ** rng.uniform(-0.6, 0) * normalise(generate(rng, t))
            names = names + others
    peak = 10 ** rng.uniform(-1.0, -0.05)
    sound = sound if quiet else peak * sound / np.abs(sound).max()
    edge = np.minimum(1, np.minimum(t, t[::-1]) / 0.005)
    channels = [sound * edge]
    if rng.random() < 0.4:
        balance = rng.uniform(0.3, 1)
        channels = [channels[0], balance * channels[0]]
    return np.stack(channels, 1), rate, with_parents(names)


def make_rows(rng, split, count):
    """Count rows, each sound as often as any other."""
    import io

    import soundfile as sf

    rows = []
    order = np.concatenate([rng.permutation(len(SOUNDS)) for _ in range(count // len(SOUNDS) + 1)])
    for index, first in enumerate(order[:count]):
        samples, rate, names = make_clip(rng, first)
        buffer = io.BytesIO()
        sf.write(buffer, samples, rate, format="FLAC", subtype="PCM_16", compression_level=0.0)
        video_id = f"{split[:5]}{index:06d}"
        rows.append({
            "video_id": video_id,
            "audio": {"bytes": buffer.getvalue(), "path": f"{video_id}.flac"},
            "labels": [CLASS_IDS[name] for name in names],
            "human_labels": names,
        })
    return rows


def main():
    args = parse_arguments()
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder that the terminal cannot show
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([
        ("video_id", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("labels", pa.list_(pa.string())),
        ("human_labels", pa.list_(pa.string())),
    ])
    counts = {"train_balanced": args.train_clips, "eval": args.eval_clips}
    for number, (split, count) in enumerate(counts.items()):
        rows = make_rows(np.random.default_rng([args.seed, number]), split, count)
        folder = Path(args.output_dir) / split
        folder.mkdir(parents=True, exist_ok=True)
        for part in range(2):
            table = pa.Table.from_pylist(rows[part::2], schema=schema)
            with (folder / f"{part:02d}.parquet").open("wb") as file:  # Arrow takes every path for UTF-8
                pq.write_table(table, file)
        classes = {name for row in rows for name in row["human_labels"]}
        print(f"{folder}: {count} clips, {len(classes)} classes")


if __name__ == "__main__":
    main()
