"""The commands of `quartet` beside `serve`, each imported only when it is given."""
