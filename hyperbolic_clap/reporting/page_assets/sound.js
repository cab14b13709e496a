"use strict";
// One player for all clips, and their thumbnails.
{
  const bar = document.getElementById("player"), audio = bar.querySelector("audio");
  const BANDS = 24, FRAMES = 64;

  parts.play = (clip) => {
    const sound = data.sounds[clip];
    if (!sound) return false;
    bar.hidden = false;
    document.getElementById("playing").textContent = `Clip ${data.clips.id[clip]}: ${parts.truth(clip)}`;
    audio.src = `data:audio/ogg;base64,${sound.ogg}`;
    audio.play().catch(() => {}); // the controls are there if the browser wants a press of its own
    return true;
  };

  parts.truth = (clip) => data.clips.truth[clip].map((j) => data.names[j]).join("; ") || "no true class";

  parts.playButton = (clip, text = "Play") => data.sounds[clip]
    ? make("button", { type: "button", "aria-label": `Play clip ${data.clips.id[clip]}`, onclick: () => parts.play(clip) }, `▶ ${text}`)
    : null;

  parts.thumbnail = (clip) => {
    const sound = data.sounds[clip];
    if (!sound) return null;
    const canvas = make("canvas", { class: "sound", width: FRAMES, height: BANDS, role: "img", "aria-label": "spectrogram" });
    const context = canvas.getContext("2d"), image = context.createImageData(FRAMES, BANDS);
    const loud = Uint8Array.from(atob(sound.picture), (letter) => letter.charCodeAt(0));
    for (let band = 0; band < BANDS; band++) {
      for (let frame = 0; frame < FRAMES; frame++) { // low bands at the bottom
        const value = loud[band * FRAMES + frame] / 255, at = 4 * ((BANDS - 1 - band) * FRAMES + frame);
        image.data.set([255 * value ** 1.2, 210 * value ** 1.8 + 10, 60 + 110 * value * (1 - value), 255], at);
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  };
}
