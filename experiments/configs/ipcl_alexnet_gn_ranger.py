"""The primary model with rectified Adam and lookahead, stopped after 82 epochs (released as ipcl4).

    python experiments/train.py --config ipcl_alexnet_gn_ranger --data.dir /path/to/tensorflow_datasets

Data: ImageNet-1k without its labels.
The released model was trained with Ranger, which is rectified Adam inside Lookahead; `radam_lookahead`
is that with Ranger's own settings, but without the gradient centralisation of its later versions. The
release states neither its version nor its learning rate: 1e-3 here is Ranger's default.
Published: kNN top-1 37.5 %, linear 32.2 %.
Cost: 525 million views; on one H100 about 6 hours, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn import BATCHES, config

config = replace(
    config,
    name="ipcl_alexnet_gn_ranger",
    optim=replace(config.optim, name="radam_lookahead", lr=1e-3),
    max_steps=82 * BATCHES,
)
