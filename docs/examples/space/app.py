"""A page for a Hugging Face Space: an image in, calibrated probabilities out, and "not sure" where that is the answer.

Set the variable MODEL in the Space's settings to hf://owner/name, as `headstart push` has made it.
"""

import os

import gradio as gr

import headstart

classifier = headstart.load(os.environ["MODEL"])


def classify(path: str) -> tuple[dict[str, float], str]:
    """Return the five likeliest classes with their probabilities, and what speaks against relying on them."""
    try:
        found = classifier.predict(path)
    except headstart.HeadstartError as error:
        raise gr.Error(str(error)) from error
    doubts = []
    if found.unsure is not None and found.unsure[0]:
        doubts.append("Not sure: the probability is too low to be relied on.")
    if found.unfamiliar is not None and found.unfamiliar[0]:
        doubts.append("Unlike the images that this classifier was trained on.")
    return dict(found.top(5)[0]), " ".join(doubts)


page = gr.Interface(
    classify,
    gr.Image(type="filepath", label="Image"),
    [gr.Label(num_top_classes=5, label="Class"), gr.Textbox(label="Doubts")],
    title=f"One of {len(classifier.class_names)} classes",
    flagging_mode="never",
    analytics_enabled=False,
)

if __name__ == "__main__":
    page.launch()
