"""`python -m repro_est` is `repro`."""

from repro_est.cli.main import main

raise SystemExit(main())
