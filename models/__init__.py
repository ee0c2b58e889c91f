"""The names of the experiment: bases, stages, personas, classifiers, tools, scenarios, prompts."""
