"""AlexNet-GN trained on ImageNet's categories, five views of each image (released as ipcl12).

    python experiments/train.py --config supervised_augset1_5x --data.dir /path/to/tensorflow_datasets

Data: ImageNet-1k with its labels. Views, network and schedule are those of ipcl_alexnet_gn; the loss is the
cross-entropy of every view, and the optimizer makes a step after each batch (its 640 views are a usual
batch size for supervised training).
Published: kNN top-1 58.8 %, linear 55.7 %.
Cost: 641 million views; on one H100 about 7 hours, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import config

config = replace(
    config,
    name="supervised_augset1_5x",
    model=replace(config.model, out_dim=1000, l2norm=False),
    objective=replace(config.objective, name="categories"),
    accumulate=1,
)
