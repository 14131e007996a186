"""The primary model on VGGFace2 (released as ipcl9).

    python experiments/train.py --config ipcl_alexnet_gn_diet_vggface2 --data.source folder:/path/to/vggface2

Data: the training images of VGGFace2, 256 pixels on the shorter side, in one folder.
The learning rate is taken from the released file's name.
Published: kNN top-1 12.4 % (of ImageNet).
Cost: 500 views of each image; about 5 hours for a million images on one H100, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn_diet_imagenet import config

config = replace(
    config,
    name="ipcl_alexnet_gn_diet_vggface2",
    data=replace(config.data, source="folder:vggface2"),
    optim=replace(config.optim, lr=0.001),
)
