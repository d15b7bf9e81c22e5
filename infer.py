"""python infer.py"""

from pytc.cli import infer

if __name__ == "__main__":
    infer()
