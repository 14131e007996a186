"""AlexNet-GN trained on ImageNet's categories with augmentation set 2 (released as ipcl14, ipcl15).

    python experiments/train.py --config supervised_augset2 --data.dir /path/to/tensorflow_datasets
    python experiments/train.py --config supervised_augset2 --seed 1 --out runs/supervised_augset2_repeat

Data: ImageNet-1k with its labels. The two released models are repeats of one recipe, so the second command
changes only the seed. The release does not state the number of views; five is our choice, as of ipcl6.
Published: kNN top-1 56.0 % (both).
Cost: 641 million views; on one H100 about 7 hours, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn_diet_imagenet import SET_2
from configs.supervised_augset1_5x import config

config = replace(config, name="supervised_augset2", views=SET_2)
