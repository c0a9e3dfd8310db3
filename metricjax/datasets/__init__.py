"""Images in a local folder: your own, and common data sets with their standard splits by class.

Nothing is downloaded, and only lists are read. Images are decoded on access, which needs
``pip install 'metricjax[datasets]'``. `augment` has random changes of images for training.
"""

from metricjax.datasets import augment as augment
from metricjax.datasets._arrays import decode as decode
from metricjax.datasets._cars196 import cars196 as cars196
from metricjax.datasets._dataset import Dataset as Dataset
from metricjax.datasets._from_records import from_records as from_records
from metricjax.datasets._image_folder import image_folder as image_folder
from metricjax.datasets._listed import cub200 as cub200
from metricjax.datasets._listed import inaturalist2018 as inaturalist2018
from metricjax.datasets._listed import stanford_online_products as stanford_online_products
