"""Train a study in parts by a scheduler, then merge them: python -m common.submit; see --help."""

from common.study.submit import main

if __name__ == "__main__":
    main()
