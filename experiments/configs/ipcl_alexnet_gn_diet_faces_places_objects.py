"""The primary model on faces, places and objects, as many images as ImageNet has (released as ipcl10).

    python experiments/train.py --config ipcl_alexnet_gn_diet_faces_places_objects

Data: 1,281,167 images, a third each of VGGFace2, Places2 and ImageNet; 256 pixels on the shorter side, in the
folders vggface2, places2 and imagenet, or as given by --data.source. The release states the total
only; equal thirds are our choice.
Published: kNN top-1 31.6 % (of ImageNet).
Cost: 500 views of each image; about 7 hours on one H100, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn_diet_imagenet import config

config = replace(
    config,
    name="ipcl_alexnet_gn_diet_faces_places_objects",
    data=replace(
        config.data,
        source="folder:vggface2@427056 + folder:places2@427056 + folder:imagenet@427055",
    ),
)
