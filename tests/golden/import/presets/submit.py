from azureml.train.dnn import Chainer, Gloo, Mpi, PyTorch as Torch, TensorFlow
from azureml.train.sklearn import SKLearn

common = dict(source_directory="src", entry_script="train.py", compute_target="cluster")

sklearn = SKLearn(**common, pip_packages=["scikit-learn==0.22.1"])
torch = Torch(node_count=2, distributed_training=Gloo(), framework_version="1.6", **common)
tensorflow = TensorFlow(
    framework_version="1.13",
    use_gpu=True,
    node_count=2,
    distributed_backend="ps",
    worker_count=2,
    parameter_server_count=1,
    **common,
)
chainer = Chainer(node_count=2, process_count_per_node=2, distributed_backend="mpi", **common)
