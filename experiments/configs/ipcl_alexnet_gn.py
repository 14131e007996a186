"""AlexNet-GN trained with IPCL on ImageNet: the paper's primary model (released as ipcl1, ipcl2).

    python experiments/train.py --config ipcl_alexnet_gn --data.dir /path/to/tensorflow_datasets
    python experiments/train.py --config ipcl_alexnet_gn --data.source folder:/path/to/imagenet

Data: ImageNet-1k; its labels are used by the kNN read-out after each epoch only.
Published: kNN top-1 38.4 % on the l2norm layer (the reference needed 7 days on a V100).
Cost: 641 million views in 1,000,900 batches of 128 images; on one H100 about 7 hours, estimated from the
memory traffic of a step in float32 and the card's nominal bandwidth (26,000 views/s).
"""

from ipcl_jax.config import Train

BATCHES = 1_281_167 // 128  # in an epoch of ImageNet

config = Train(name="ipcl_alexnet_gn")
