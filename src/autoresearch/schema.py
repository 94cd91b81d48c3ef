"""The ledger's tables, and how an older ledger becomes one of today: one step a version, forward only."""

SCHEMA = 1
MIGRATIONS: dict[int, str] = {
    1: """
    CREATE TABLE runs (
        tag TEXT PRIMARY KEY, created REAL NOT NULL, program TEXT NOT NULL, program_digest TEXT NOT NULL,
        program_text TEXT NOT NULL, agent TEXT NOT NULL, device TEXT NOT NULL, corpus TEXT NOT NULL,
        fingerprint TEXT NOT NULL, metric TEXT NOT NULL, goal TEXT NOT NULL, seed TEXT NOT NULL, base TEXT NOT NULL
    );
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, tag TEXT NOT NULL REFERENCES runs, started REAL NOT NULL, seen REAL NOT NULL,
        ended REAL, why TEXT
    );
    CREATE TABLE experiments (
        tag TEXT NOT NULL REFERENCES runs, number INTEGER NOT NULL, stage TEXT NOT NULL, status TEXT NOT NULL,
        standing TEXT, title TEXT NOT NULL DEFAULT '', family TEXT NOT NULL DEFAULT 'other',
        hypothesis TEXT NOT NULL DEFAULT '', expect REAL, replies INTEGER NOT NULL DEFAULT 1, commit_id TEXT,
        parent TEXT, lines INTEGER, knobs TEXT NOT NULL DEFAULT '{}', patch TEXT, value REAL, reason TEXT,
        created REAL NOT NULL, ended REAL, PRIMARY KEY (tag, number)
    );
    CREATE TABLE measurements (
        id INTEGER PRIMARY KEY, tag TEXT NOT NULL, number INTEGER NOT NULL, purpose TEXT NOT NULL,
        seed INTEGER NOT NULL, changes TEXT, started REAL NOT NULL, ended REAL, value REAL, detail TEXT,
        FOREIGN KEY (tag, number) REFERENCES experiments
    );
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY, tag TEXT NOT NULL, number INTEGER NOT NULL, at REAL NOT NULL, model TEXT NOT NULL,
        seconds REAL NOT NULL, input_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, usd REAL,
        FOREIGN KEY (tag, number) REFERENCES experiments
    );
    CREATE INDEX measured ON measurements (tag, number);
    """
}
