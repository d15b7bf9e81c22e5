"""torchrun train.py --config configs/mednext.py"""

from pytc.cli import train

if __name__ == "__main__":
    train()
