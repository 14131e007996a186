"""AlexNet-GN trained on ImageNet's categories, one view of each image (released as ipcl13).

    python experiments/train.py --config supervised_augset1_1x --data.dir /path/to/tensorflow_datasets

Data: ImageNet-1k with its labels; as supervised_augset1_5x, with a fifth of the views.
Published: kNN top-1 55.5 %, linear 54.5 %.
Cost: 128 million views; on one H100 about 1.5 hours, estimated as for ipcl_alexnet_gn. Each view needs an
image of its own, so images must be loaded five times as fast as for five views of each.
"""

from dataclasses import replace

from configs.supervised_augset1_5x import config

config = replace(config, name="supervised_augset1_1x", views=replace(config.views, per_image=1))
