"""What an answer is worth: Python functions, checks, reward models and HTTP endpoints, alone or weighted together.

rewards = rewards_from_config(config, config_dir, open_model)
rewards.check_rows(zip(refs, rows))           # before the weights are read
scored = rewards.score(samples)               # scored.totals, scored.by_source
"""

from tunesmith.train.rewards.combine import Rewards, Scored
from tunesmith.train.rewards.sample import Reward, Sample, samples_of
from tunesmith.train.rewards.sources import rewards_from_config

__all__ = ["Reward", "Rewards", "Sample", "Scored", "rewards_from_config", "samples_of"]
