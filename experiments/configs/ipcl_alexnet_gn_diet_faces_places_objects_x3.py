"""The primary model on faces, places and objects, three times as many images as ImageNet has (released as ipcl11).

    python experiments/train.py --config ipcl_alexnet_gn_diet_faces_places_objects_x3

Data: 3,843,501 images, a third each of VGGFace2, Places2 and ImageNet; 256 pixels on the shorter side, in the
folders vggface2, places2 and imagenet, or as given by --data.source. The release states the total
only; equal thirds are our choice.
Published: kNN top-1 33.9 % (of ImageNet).
Cost: 500 views of each image; about 21 hours on one H100, estimated as for ipcl_alexnet_gn.
"""

from dataclasses import replace

from configs.ipcl_alexnet_gn_diet_imagenet import config

config = replace(
    config,
    name="ipcl_alexnet_gn_diet_faces_places_objects_x3",
    data=replace(
        config.data,
        source="folder:vggface2@1281167 + folder:places2@1281167 + folder:imagenet@1281167",
    ),
)
