"""Which distribution an import comes from, where the two have different names.

A small frozen table of the well-known ones; for the rest the name of the module is the guess, which is right for
most of an index.
"""

from __future__ import annotations

_DISTRIBUTIONS = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cairo": "pycairo",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "git": "GitPython",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "igraph": "python-igraph",
    "Levenshtein": "python-Levenshtein",
    "magic": "python-magic",
    "mpi4py": "mpi4py",
    "mpl_toolkits": "matplotlib",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "psycopg2": "psycopg2-binary",
    "pylab": "matplotlib",
    "pythoncom": "pywin32",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "slugify": "python-slugify",
    "tensorflow": "tensorflow",
    "umap": "umap-learn",
    "usb": "pyusb",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}


def distribution_for(module: str) -> str:
    """Returns the distribution that most likely holds a module: `sklearn.svm` is in `scikit-learn`."""
    top = module.split(".")[0]
    return _DISTRIBUTIONS.get(module) or _DISTRIBUTIONS.get(top) or top
