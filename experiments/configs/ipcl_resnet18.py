"""ResNet-18 trained with IPCL on ImageNet.

    python experiments/train.py --config ipcl_resnet18 --data.dir /path/to/tensorflow_datasets
    python experiments/train.py --config ipcl_resnet18 --model.norm batch --out runs/ipcl_resnet18_bn

Data: ImageNet-1k without its labels. The other options are those of ipcl_alexnet_gn. The norm is group norm,
since batch norm shares information between views of an image; the second command uses batch norm.
Published: none.
Cost: 641 million views of 11 GFLOP each; on one H100 about 20 hours if it reaches 100 TFLOP/s, an estimate.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import config

config = replace(config, name="ipcl_resnet18", model=replace(config.model, arch="resnet18"))
