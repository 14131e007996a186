"""The primary model on Places2 (released as ipcl8).

    python experiments/train.py --config ipcl_alexnet_gn_diet_places --data.source folder:/path/to/places2

Data: the training images of Places2 (Places365), 256 pixels on the shorter side, in one folder.
Published: kNN top-1 30.9 % (of ImageNet).
Cost: 500 views of each image; about 5 hours for a million images on one H100, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn_diet_imagenet import config

config = replace(
    config,
    name="ipcl_alexnet_gn_diet_places",
    data=replace(config.data, source="folder:places2"),
)
