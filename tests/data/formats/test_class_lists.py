"""Files that list classes, and do not agree: both are named."""

import pytest

from dhcli.data.formats import read_dataset
from dhcli.errors import DataError

IMAGE_IDS = "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,0,1,0,1\n"
CARD = "---\nclass_label: {{names: [{}]}}\n---\n"
METADATA = '{"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 3, 4]], "categories": [1]}}\n'
RETINANET = "a.jpg,1,2,3,4,cat\n"

DIFFERENT = {
    "openimages": (
        {
            "a.csv": IMAGE_IDS,
            "class-descriptions-boxable.csv": "/m/0,dog\n/m/1,cat\n",
            "metadata/classes.csv": "/m/1,bird\n/m/2,cow\n",
        },
        "`/m/1` is `cat` in class-descriptions-boxable.csv and `bird` in metadata/classes.csv",
    ),
    "retinanet": (
        {"a.csv": RETINANET, "classes.csv": "cat,0\ndog,1\n", "old_classes.csv": "dog,0\ncat,1\n"},
        "number 0 is `cat` in classes.csv and `dog` in old_classes.csv",
    ),
    "retinanet's rows": (
        {"a.csv": f"{RETINANET}a.jpg,1,2,3,4,cta\n", "classes.csv": "cat,0\ndog,1\n"},
        "a.csv: has 1 class that classes.csv does not list: cta",
    ),
    "keras-yolo": (
        {"train/_annotations.txt": "a.jpg 1,2,3,4,1\n"}
        | {"train/_classes.txt": "cat\ndog\n", "classes.txt": "cat\nbird\n"},
        "number 1 is `bird` in classes.txt and `dog` in train/_classes.txt",
    ),
    "keras-yolo's model_data": (
        {"train.txt": "a.jpg 1,2,3,4,1\n"}
        | {"model_data/coco_classes.txt": "cat\ndog\n", "model_data/my_classes.txt": "cat\n"},
        "number 1 is `dog` in model_data/coco_classes.txt and no class in model_data/my_classes",
    ),
    "imagefolder": (
        {"train/metadata.jsonl": METADATA}
        | {"README.md": CARD.format("cat, dog"), "train/README.md": CARD.format("dog, cat")},
        "number 0 is `cat` in .*/README.md and `dog` in .*/train/README.md",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_lists_that_do_not_agree_are_an_error_that_names_both(lay, name):
    files, said = DIFFERENT[name]

    with pytest.raises(DataError, match=said) as caught:
        read_dataset(lay(files, "a.jpg", "train/a.jpg"))

    assert caught.value.hint


def test_lists_of_open_images_may_be_some_of_another(lay):
    files = {
        "a.csv": f"{IMAGE_IDS}a,/m/2,0,1,0,1\n",
        "class-descriptions-boxable.csv": "/m/0,dog\n/m/1,cat\n",
        "metadata/classes.csv": "/m/1,cat\n/m/2,cow\n",
    }

    assert read_dataset(lay(files, "a.jpg")).classes == ("cat", "cow")
