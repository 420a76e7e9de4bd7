"""Where rows are kept for reading; disposable."""
