"""Zero-shot classification with a trained hyperbolic projector: test_clap_modelscope.py, always hyperbolic.

    python test_hyperbolic_clap_modelscope.py --parquet-dir ./Datasets/AudioSet/eval \\
        --projection-checkpoint ./checkpoints_hyperbolic --num-samples 100 \\
        --device cuda:0 --output-json results_hyperbolic.json \\
        --class-labels CLAP/class_labels/audioset_class_labels_indices.json --top-k 5 --c 1.0 --temperature 1.0
"""

import sys

from hyperbolic_clap.plumbing.run import run
from test_clap_modelscope import main, parser

if __name__ == "__main__":
    sys.exit(run(main, parser(__doc__, always_hyperbolic=True).parse_args()))
