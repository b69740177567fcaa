"""Put the finished parts of a study together: python -m common.merge; see --help."""

from common.study.merge import main

if __name__ == "__main__":
    main()
