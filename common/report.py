"""Make one page to explore recorded studies with: python -m common.report; see --help."""

from common.analysis.report import main

if __name__ == "__main__":
    main()
