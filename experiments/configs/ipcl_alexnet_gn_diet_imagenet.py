"""The primary model with augmentation set 2 (released as ipcl6); the other `diet` recipes have other images.

    python experiments/train.py --config ipcl_alexnet_gn_diet_imagenet --data.source folder:/path/to/imagenet

Data: ImageNet-1k without its labels.
Set 2 normalises with mean 0.5 and std 0.2, and its crops are larger. The release does not state the range
of their areas; 0.5 to 1 is our choice (--views.crop-area).
Published: kNN top-1 35.1 %.
Cost: 641 million views; on one H100 about 7 hours, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import config

SET_2 = replace(config.views, crop_area=(0.5, 1.0), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))

config = replace(config, name="ipcl_alexnet_gn_diet_imagenet", views=SET_2)
