"The command `lvr` as `python -m lstm_video_repr`, which is how `torchrun -m` finds it. Explained in nbs/15_cli.ipynb."
import sys

from .cli import main

if __name__ == '__main__': sys.exit(main())
