"""glmbox's stand-in of the upstream file ptuning/web_demo.py, with the same interface: a page of the tuned model."""

import os
import sys

import gradio as gr
import mdtex2html
import torch
from arguments import ModelArguments
from transformers import AutoConfig, AutoModel, AutoTokenizer, HfArgumentParser

PREFIX = "transformer.prefix_encoder."
model = None
tokenizer = None


def render_rounds(self, rounds):
    """Turn the Markdown and formulas of each [question, answer] into HTML; gradio calls it on every update."""
    return [[text if text is None else mdtex2html.convert(text) for text in pair] for pair in rounds or []]


gr.Chatbot.postprocess = render_rounds


def answer(question, chatbot, max_length, top_p, temperature, history, past_key_values):
    """Stream the answer into the last row of `chatbot`."""
    chatbot.append([question, ""])
    options = {"max_length": max_length, "top_p": top_p, "temperature": temperature, "return_past_key_values": True}
    stream = model.stream_chat(tokenizer, question, history, past_key_values=past_key_values, **options)
    for response, history, past_key_values in stream:  # noqa: B020 (each step replaces the state)
        chatbot[-1] = [question, response]
        yield chatbot, history, past_key_values


with gr.Blocks() as demo:
    gr.HTML('<h1 align="center">ChatGLM2-6B (glmbox miniature, tuned)</h1>')
    chatbot = gr.Chatbot()
    question = gr.Textbox(show_label=False, placeholder="Type a question", lines=8).style(container=False)
    send = gr.Button("Send", variant="primary")
    clear = gr.Button("Start over")
    max_length = gr.Slider(0, 32768, value=8192, step=1, label="Longest chat (tokens)", interactive=True)
    top_p = gr.Slider(0, 1, value=0.8, step=0.01, label="top_p", interactive=True)
    temperature = gr.Slider(0, 1, value=0.95, step=0.01, label="temperature", interactive=True)
    state = [chatbot, gr.State([]), gr.State(None)]
    send.click(answer, [question, chatbot, max_length, top_p, temperature, *state[1:]], state, show_progress=True)
    send.click(lambda: gr.update(value=""), [], [question])
    clear.click(lambda: ([], [], None), outputs=state, show_progress=True)


def main():
    """Load the model that the command line names, and serve the page."""
    global model, tokenizer
    parser = HfArgumentParser(ModelArguments)
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        (arguments,) = parser.parse_json_file(json_file=os.path.abspath(sys.argv[1]))
    else:
        (arguments,) = parser.parse_args_into_dataclasses()
    path = arguments.model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    config.pre_seq_len, config.prefix_projection = arguments.pre_seq_len, arguments.prefix_projection
    model = AutoModel.from_pretrained(path, config=config, trust_remote_code=True)
    if arguments.ptuning_checkpoint is not None:
        weights = torch.load(os.path.join(arguments.ptuning_checkpoint, "pytorch_model.bin"))
        prefix = {name[len(PREFIX) :]: weight for name, weight in weights.items() if name.startswith(PREFIX)}
        model.transformer.prefix_encoder.load_state_dict(prefix)
    if arguments.quantization_bit is not None:
        model = model.quantize(arguments.quantization_bit)
    model = model.cuda()
    if arguments.pre_seq_len is not None:
        model.transformer.prefix_encoder.float()
    model = model.eval()
    demo.queue().launch(share=False, inbrowser=True)


if __name__ == "__main__":
    main()
