"""ResNet-18 trained with IPCL on ImageNet.

    python experiments/train.py --config ipcl_resnet18 --data.dir /path/to/tensorflow_datasets
    python experiments/train.py --config ipcl_resnet18 --model.norm batch --out runs/ipcl_resnet18_bn

Data: ImageNet-1k without its labels. The recipe is that of ipcl_alexnet_gn. Group norm by default, as
batch norm lets a view see its siblings; the second line has batch norm.
Published: none.
Cost: 641 million views of 11 GFLOP each; on one H100 about 20 hours if it reaches 100 TFLOP/s, an estimate.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import config

config = replace(config, name="ipcl_resnet18", model=replace(config.model, arch="resnet18"))
