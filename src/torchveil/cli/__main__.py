import sys

from torchveil.cli import main

sys.exit(main())
