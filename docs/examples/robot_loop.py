"""A control loop around a policy that `metarl export --onnx policy.onnx` wrote."""

import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("policy.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["metarl"])
outputs = [one.name for one in session.get_outputs()]
inputs = {one.name for one in session.get_inputs()}
state = {
    name: np.array(part["begin"], part["dtype"]).reshape(part["shape"])
    for name, part in about["state"].items()
}
action, reward, first = np.zeros((1, about["action_size"]), np.float32), 0.0, True


def step(obs):
    """Return the actuators' controls for an observation, once every about["dt"] seconds."""
    global state, action, first
    given = {
        "obs": np.asarray(obs, np.float32)[None],
        "prev_action": action,
        "prev_reward": np.array([reward], np.float32),
        "first": np.array([first]),
        **state,
    }
    read = {name: value for name, value in given.items() if name in inputs}
    out = dict(zip(outputs, session.run(outputs, read), strict=True))
    state = {name: out[f"next_{name}"] for name in state}
    action, first = out["action"], False
    return out["control"][0]
