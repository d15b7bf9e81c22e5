"""python evaluate.py --sweep"""

from pytc.cli import evaluate

if __name__ == "__main__":
    evaluate()
