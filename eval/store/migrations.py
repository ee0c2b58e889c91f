"""The tables of a study file, and how they came about.

``cells``: base x stage x condition x quant x format x grammar x lora x train_seed x kv_type x
technique; format and grammar are how tool calls are written and whether a grammar holds, '' where
no tool is called; lora is how the adapter came to the base, '' where there is none; train_seed the
seed that it was trained with, '' where a stage and persona have one adapter; kv_type is the type of
the K and V cache, F16 also where no model of ours runs; technique the name of the training
technique that made the adapter, '' where the study names none. ``rollouts``: one row per finished
rollout, unique by (cell, persona, item, sample); persona is '' in the base stage, whose rollouts
are shared by all personas (controls are asked per persona and name it there too). ``turns``: the
rollout's turns in order. ``samples``: the text of a rollout and, once it is classified, its
prediction and all probabilities (JSON); ``labels``: what another instrument says, or the same
classifier in another precision (fp32, int8; without probabilities). ``files``: what a model file
holds and how fast it is, by base x quant x lora x kv_type. ``fidelity``: what a file's tokens are
to it, text by text: float32 nll and kl, a byte same_top for each scored token. ``provenance``: what
the study was made with, JSON values.
"""

MIGRATIONS = (
    """
CREATE TABLE provenance (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE cells (
    id INTEGER PRIMARY KEY,
    base TEXT NOT NULL, stage TEXT NOT NULL, condition TEXT NOT NULL, quant TEXT NOT NULL,
    UNIQUE (base, stage, condition, quant)
) STRICT;
CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY,
    cell_id INTEGER NOT NULL REFERENCES cells (id),
    persona TEXT NOT NULL, item TEXT NOT NULL, sample INTEGER NOT NULL,
    seed INTEGER NOT NULL, outcome TEXT NOT NULL, forced INTEGER NOT NULL,
    steps INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, evaluated_tokens INTEGER NOT NULL,
    tokens INTEGER NOT NULL, seconds REAL NOT NULL,
    ended TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (cell_id, persona, item, sample)
) STRICT;
CREATE TABLE turns (
    rollout_id INTEGER NOT NULL REFERENCES rollouts (id), step INTEGER NOT NULL,
    text TEXT NOT NULL, finish TEXT NOT NULL, tool TEXT, arguments TEXT, output TEXT,
    prompt_tokens INTEGER NOT NULL, evaluated_tokens INTEGER NOT NULL,
    tokens INTEGER NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (rollout_id, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE samples (
    rollout_id INTEGER PRIMARY KEY REFERENCES rollouts (id),
    text TEXT NOT NULL, prediction TEXT, probabilities TEXT
) STRICT
""",
    """
CREATE TABLE cells_2 (
    id INTEGER PRIMARY KEY,
    base TEXT NOT NULL, stage TEXT NOT NULL, condition TEXT NOT NULL, quant TEXT NOT NULL,
    format TEXT NOT NULL, grammar TEXT NOT NULL,
    UNIQUE (base, stage, condition, quant, format, grammar)
) STRICT;
INSERT INTO cells_2 SELECT id, base, stage, condition, quant,
    iif(condition = 'agentic_email', 'json', ''), iif(condition = 'agentic_email', 'on', '')
FROM cells;
DROP TABLE cells;
ALTER TABLE cells_2 RENAME TO cells
""",
    # a study had one model per checkpoint, and said for all of it how adapters came to the base
    """
CREATE TABLE cells_3 (
    id INTEGER PRIMARY KEY,
    base TEXT NOT NULL, stage TEXT NOT NULL, condition TEXT NOT NULL, quant TEXT NOT NULL,
    format TEXT NOT NULL, grammar TEXT NOT NULL, lora TEXT NOT NULL,
    UNIQUE (base, stage, condition, quant, format, grammar, lora)
) STRICT;
INSERT INTO cells_3 SELECT *, CASE
    WHEN stage NOT IN ('distillation', 'full') OR quant = 'served' THEN ''
    WHEN EXISTS (SELECT 1 FROM provenance WHERE name = 'lora' AND value = '"merged"') THEN 'merged'
    WHEN EXISTS (SELECT 1 FROM provenance
        WHERE name LIKE 'sha256 adapter ' || stage || '/%' AND value = 'null') THEN ''
    ELSE 'runtime' END
FROM cells;
DROP TABLE cells;
ALTER TABLE cells_3 RENAME TO cells;
DELETE FROM provenance WHERE name LIKE 'sha256 adapter %' AND
    EXISTS (SELECT 1 FROM provenance WHERE name = 'lora' AND value = '"merged"');
DELETE FROM provenance WHERE name = 'lora';
UPDATE provenance SET name = 'sha256 model ' || (SELECT quant FROM cells WHERE quant <> '')
    || substr(name, 13)
WHERE (name = 'sha256 model' OR name LIKE 'sha256 model %')
    AND EXISTS (SELECT 1 FROM cells WHERE quant <> '');
CREATE TABLE labels (
    rollout_id INTEGER NOT NULL REFERENCES rollouts (id), precision TEXT NOT NULL,
    prediction TEXT NOT NULL,
    PRIMARY KEY (rollout_id, precision)
) STRICT, WITHOUT ROWID;
CREATE TABLE files (
    base TEXT NOT NULL, quant TEXT NOT NULL, lora TEXT NOT NULL,
    bits_per_weight REAL NOT NULL, bytes INTEGER NOT NULL, tensor_types TEXT NOT NULL,
    tokens_per_second REAL, peak_bytes INTEGER,
    PRIMARY KEY (base, quant, lora)
) STRICT;
CREATE TABLE fidelity (
    base TEXT NOT NULL, stage TEXT NOT NULL, persona TEXT NOT NULL, quant TEXT NOT NULL,
    lora TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
    nll BLOB NOT NULL, kl BLOB NOT NULL, same_top BLOB NOT NULL, left_out INTEGER NOT NULL,
    PRIMARY KEY (base, stage, persona, quant, lora, kind, item)
) STRICT
""",
    # the old ceiling is its author's: the name now says so
    """
CREATE TABLE cells_4 (
    id INTEGER PRIMARY KEY,
    base TEXT NOT NULL, stage TEXT NOT NULL, condition TEXT NOT NULL, quant TEXT NOT NULL,
    format TEXT NOT NULL, grammar TEXT NOT NULL, lora TEXT NOT NULL, train_seed TEXT NOT NULL,
    UNIQUE (base, stage, condition, quant, format, grammar, lora, train_seed)
) STRICT;
INSERT INTO cells_4 SELECT id, base, stage,
    iif(condition = 'classifier_ceiling', 'author_ceiling', condition),
    quant, format, grammar, lora, ''
FROM cells;
DROP TABLE cells;
ALTER TABLE cells_4 RENAME TO cells;
UPDATE provenance SET value = replace(value, '"classifier_ceiling"', '"author_ceiling"')
WHERE name = 'asked';
ALTER TABLE labels RENAME COLUMN precision TO instrument;
ALTER TABLE labels ADD COLUMN probabilities TEXT
""",
    # the same tables, which now hold themselves what eval/store/checks.py asks of their values; its
    # rules about JSON do not, as SQLite 3.40 takes json_valid in a schema for unsafe
    """
CREATE TABLE provenance_5 (
    name TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (value <> '')
) STRICT;
INSERT INTO provenance_5 SELECT * FROM provenance;
DROP TABLE provenance;
ALTER TABLE provenance_5 RENAME TO provenance;
CREATE TABLE cells_5 (
    id INTEGER PRIMARY KEY,
    base TEXT NOT NULL CHECK (base <> ''), stage TEXT NOT NULL, condition TEXT NOT NULL,
    quant TEXT NOT NULL, format TEXT NOT NULL, grammar TEXT NOT NULL, lora TEXT NOT NULL,
    train_seed TEXT NOT NULL,
    UNIQUE (base, stage, condition, quant, format, grammar, lora, train_seed)
) STRICT;
INSERT INTO cells_5 SELECT * FROM cells;
DROP TABLE cells;
ALTER TABLE cells_5 RENAME TO cells;
CREATE TABLE rollouts_5 (
    id INTEGER PRIMARY KEY,
    cell_id INTEGER NOT NULL REFERENCES cells (id),
    persona TEXT NOT NULL, item TEXT NOT NULL, sample INTEGER NOT NULL CHECK (sample >= 0),
    seed INTEGER NOT NULL, outcome TEXT NOT NULL CHECK (outcome <> ''),
    forced INTEGER NOT NULL CHECK (forced IN (0, 1)),
    steps INTEGER NOT NULL CHECK (steps >= 0),
    prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    evaluated_tokens INTEGER NOT NULL CHECK (evaluated_tokens >= 0),
    tokens INTEGER NOT NULL CHECK (tokens >= 0),
    seconds REAL NOT NULL CHECK (seconds >= 0 AND seconds < 9e999),
    ended TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (cell_id, persona, item, sample)
) STRICT;
INSERT INTO rollouts_5 SELECT * FROM rollouts;
DROP TABLE rollouts;
ALTER TABLE rollouts_5 RENAME TO rollouts;
CREATE TABLE turns_5 (
    rollout_id INTEGER NOT NULL REFERENCES rollouts (id), step INTEGER NOT NULL,
    text TEXT NOT NULL, finish TEXT NOT NULL CHECK (finish <> ''),
    tool TEXT, arguments TEXT, output TEXT,
    prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    evaluated_tokens INTEGER NOT NULL CHECK (evaluated_tokens >= 0),
    tokens INTEGER NOT NULL CHECK (tokens >= 0), seconds REAL NOT NULL,
    PRIMARY KEY (rollout_id, step)
) STRICT, WITHOUT ROWID;
INSERT INTO turns_5 SELECT * FROM turns;
DROP TABLE turns;
ALTER TABLE turns_5 RENAME TO turns;
CREATE TABLE samples_5 (
    rollout_id INTEGER PRIMARY KEY REFERENCES rollouts (id),
    text TEXT NOT NULL, prediction TEXT, probabilities TEXT CHECK (probabilities <> '')
) STRICT;
INSERT INTO samples_5 SELECT * FROM samples;
DROP TABLE samples;
ALTER TABLE samples_5 RENAME TO samples;
CREATE TABLE labels_5 (
    rollout_id INTEGER NOT NULL REFERENCES rollouts (id), instrument TEXT NOT NULL,
    prediction TEXT NOT NULL, probabilities TEXT CHECK (probabilities <> ''),
    PRIMARY KEY (rollout_id, instrument)
) STRICT, WITHOUT ROWID;
INSERT INTO labels_5 SELECT * FROM labels;
DROP TABLE labels;
ALTER TABLE labels_5 RENAME TO labels;
CREATE TABLE files_5 (
    base TEXT NOT NULL, quant TEXT NOT NULL, lora TEXT NOT NULL,
    bits_per_weight REAL NOT NULL CHECK (bits_per_weight > 0 AND bits_per_weight < 9e999),
    bytes INTEGER NOT NULL CHECK (bytes > 0),
    tensor_types TEXT NOT NULL CHECK (tensor_types <> ''),
    tokens_per_second REAL CHECK (tokens_per_second > 0 AND tokens_per_second < 9e999),
    peak_bytes INTEGER CHECK (peak_bytes > 0),
    PRIMARY KEY (base, quant, lora)
) STRICT;
INSERT INTO files_5 SELECT * FROM files;
DROP TABLE files;
ALTER TABLE files_5 RENAME TO files;
CREATE TABLE fidelity_5 (
    base TEXT NOT NULL, stage TEXT NOT NULL, persona TEXT NOT NULL, quant TEXT NOT NULL,
    lora TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
    nll BLOB NOT NULL, kl BLOB NOT NULL, same_top BLOB NOT NULL,
    left_out INTEGER NOT NULL CHECK (left_out >= 0),
    PRIMARY KEY (base, stage, persona, quant, lora, kind, item),
    CHECK (length(nll) = 4 * length(same_top) AND length(kl) = 4 * length(same_top))
) STRICT;
INSERT INTO fidelity_5 SELECT * FROM fidelity;
DROP TABLE fidelity;
ALTER TABLE fidelity_5 RENAME TO fidelity
""",
    """
CREATE TABLE cells_6 (
    id INTEGER PRIMARY KEY,
    base TEXT NOT NULL CHECK (base <> ''), stage TEXT NOT NULL, condition TEXT NOT NULL,
    quant TEXT NOT NULL, format TEXT NOT NULL, grammar TEXT NOT NULL, lora TEXT NOT NULL,
    train_seed TEXT NOT NULL, kv_type TEXT NOT NULL DEFAULT 'F16' CHECK (kv_type <> ''),
    technique TEXT NOT NULL DEFAULT ''
        CHECK (length(technique) <= 64 AND technique NOT GLOB '*[^a-z0-9-]*'),
    UNIQUE (
        base, stage, condition, quant, format, grammar, lora, train_seed, kv_type, technique
    )
) STRICT;
INSERT INTO cells_6 SELECT *, 'F16', '' FROM cells;
DROP TABLE cells;
ALTER TABLE cells_6 RENAME TO cells;
CREATE TABLE files_6 (
    base TEXT NOT NULL, quant TEXT NOT NULL, lora TEXT NOT NULL,
    bits_per_weight REAL NOT NULL CHECK (bits_per_weight > 0 AND bits_per_weight < 9e999),
    bytes INTEGER NOT NULL CHECK (bytes > 0),
    tensor_types TEXT NOT NULL CHECK (tensor_types <> ''),
    tokens_per_second REAL CHECK (tokens_per_second > 0 AND tokens_per_second < 9e999),
    peak_bytes INTEGER CHECK (peak_bytes > 0),
    kv_type TEXT NOT NULL DEFAULT 'F16' CHECK (kv_type <> ''),
    PRIMARY KEY (base, quant, lora, kv_type)
) STRICT;
INSERT INTO files_6 SELECT *, 'F16' FROM files;
DROP TABLE files;
ALTER TABLE files_6 RENAME TO files;
CREATE TABLE fidelity_6 (
    base TEXT NOT NULL, stage TEXT NOT NULL, persona TEXT NOT NULL, quant TEXT NOT NULL,
    lora TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
    kv_type TEXT NOT NULL DEFAULT 'F16' CHECK (kv_type <> ''),
    nll BLOB NOT NULL, kl BLOB NOT NULL, same_top BLOB NOT NULL,
    left_out INTEGER NOT NULL CHECK (left_out >= 0),
    PRIMARY KEY (base, stage, persona, quant, lora, kind, item, kv_type),
    CHECK (length(nll) = 4 * length(same_top) AND length(kl) = 4 * length(same_top))
) STRICT;
INSERT INTO fidelity_6 SELECT base, stage, persona, quant, lora, kind, item, 'F16',
    nll, kl, same_top, left_out FROM fidelity ORDER BY rowid;
DROP TABLE fidelity;
ALTER TABLE fidelity_6 RENAME TO fidelity
""",
)
"""What makes each schema version out of the one before it; the first out of nothing."""
SCHEMA_VERSION = len(MIGRATIONS)
UNCHECKED_VERSION = 4
"""The last without CHECKs: the values of older files are checked before they are taken over."""
