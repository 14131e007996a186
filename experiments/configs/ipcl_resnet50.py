"""ResNet-50 trained with IPCL on ImageNet.

    python experiments/train.py --config ipcl_resnet50 --data.dir /path/to/tensorflow_datasets
    python experiments/train.py --config ipcl_resnet50 --model.norm batch --out runs/ipcl_resnet50_bn

Data: ImageNet-1k without its labels. The other options are those of ipcl_alexnet_gn, the norm that of ipcl_resnet18.
Published: none.
Cost: 641 million views of 25 GFLOP each; on one H100 about 45 hours if it reaches 100 TFLOP/s, an estimate.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import config

config = replace(config, name="ipcl_resnet50", model=replace(config.model, arch="resnet50"))
