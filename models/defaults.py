"""Every default of a study: options, study files, Python and the engine take them from here."""

CONDITIONS = ("chat", "agentic_email")
QUANT = "Q8_0"
PROMPTS, SCENARIOS = 24, 10  # per cell
PARALLEL = 8  # rollouts that run at once, where nothing else decides
MAX_TOKENS = 384  # per reply
MAX_STEPS = 8  # replies per agent rollout, as published
CONTEXT = 2560  # tokens that one rollout may fill
TEMPERATURE, TOP_P = 0.7, 0.95  # decoding, as published
TIMEOUT = 600.0  # seconds to wait for a reply of a server

REFERENCE = "F16"  # the quant type that all others are compared with
MARGIN = 0.03  # the largest difference from the reference in a share that counts as none
QUANT_STUDY = ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
TEXTS = 4  # of each kind and persona, read by every file of a quantization study
LEAST_RESAMPLES = 100
"""Of a bootstrap; with fewer the ends of its interval are single resamples."""
