"""The primary model on the reference's cheaper views, stopped after 82 epochs (released as ipcl5).

    python experiments/train.py --config ipcl_alexnet_gn_fastaug --data.dir /path/to/tensorflow_datasets

Data: ImageNet-1k without its labels.
The reference doubled its speed by colour operations in a fixed order, a cheaper change of hue and crops
without antialiasing. Here views are made on the accelerator, so this saves no time; the recipe serves to
study the effect of these approximations on accuracy.
Published: kNN top-1 36.9 %, linear 38.5 % (the paper's readme reports 32.8 % for fast views, 39.3 % without).
Cost: 525 million views; on one H100 about 6 hours, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import BATCHES, config

config = replace(
    config,
    name="ipcl_alexnet_gn_fastaug",
    views=replace(config.views, colour_order="fixed", hue_space="yiq", antialias=False),
    max_steps=82 * BATCHES,
)
