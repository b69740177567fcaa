"""Compare recorded studies: python -m common.compare; see --help."""

from common.analysis.compare import main

if __name__ == "__main__":
    main()
