"""A tiny run."""

from ipcl_jax.config import Data, Model, Objective, Optim, Train, Views

config = Train(
    name="tiny",
    model=Model(fc_dim=8, out_dim=4),
    objective=Objective(queue_size=16),
    views=Views(size=64, per_image=2),
    data=Data(source="folder:images", canvas=(64, 64), threads=1),
    optim=Optim(lr=1e-3, clip_norm=1.0),
    epochs=3,
    batch_size=4,
    accumulate=2,
    out="run",
)
