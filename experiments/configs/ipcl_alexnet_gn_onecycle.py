"""The primary model under PyTorch's own one-cycle, stopped after 73 epochs (released as ipcl3).

    python experiments/train.py --config ipcl_alexnet_gn_onecycle --data.dir /path/to/tensorflow_datasets

Data: ImageNet-1k without its labels. Learning rate and momentum follow torch's OneCycleLR over 100
epochs; the release is the state after 73 of them (--max-steps counts batches of 128 images).
Published: kNN top-1 35.4 %, linear 35.7 %.
Cost: 468 million views; on one H100 about 5 hours, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import BATCHES, config

config = replace(
    config,
    name="ipcl_alexnet_gn_onecycle",
    schedule=replace(config.schedule, name="one_cycle_torch"),
    max_steps=73 * BATCHES,
)
