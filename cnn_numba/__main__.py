"""`python -m cnn_numba` is `python main.py`."""
from cnn_numba.commands.main import main

raise SystemExit(main())
