"""The primary model on OpenImagesV6 (released as ipcl7).

    python experiments/train.py --config ipcl_alexnet_gn_diet_openimages --data.source folder:/path/to/openimagesv6

Data: the training images of OpenImagesV6, 256 pixels on the shorter side, in one folder.
Published: kNN top-1 33.3 % (of ImageNet).
Cost: 500 views of each image; about 5 hours for a million images on one H100, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn_diet_imagenet import config

config = replace(
    config,
    name="ipcl_alexnet_gn_diet_openimages",
    data=replace(config.data, source="folder:openimagesv6"),
)
