"""What an answer is worth: Python functions, checks, reward models and HTTP endpoints, alone or weighted together.

`sources.rewards_from_config` opens what a configuration names; `Rewards.check_rows` refuses rows that could not be
scored before the weights are read; `Rewards.score` gives every sample its total and each source's own score.
"""
