"""Logs of other stacks, message by message: MCAP, rosbag2 and ULog behind one interface."""
