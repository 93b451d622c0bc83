"""glmbox's stand-in of the upstream file web_demo.py, with the same interface: a gradio 3 chat page."""

import html

import gradio as gr
import mdtex2html
from transformers import AutoModel, AutoTokenizer
from utils import load_model_on_gpus  # noqa: F401 (imported and left unused upstream too: utils.py must be findable)

tokenizer = AutoTokenizer.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True)
model = AutoModel.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True).cuda()
model = model.eval()


def render_rounds(self, rounds):
    """Turn the Markdown and formulas of each [question, answer] into HTML; gradio calls it on every update."""
    return [[text if text is None else mdtex2html.convert(text) for text in pair] for pair in rounds or []]


gr.Chatbot.postprocess = render_rounds


def to_html(text):
    """Keep the line breaks of `text`, and show what stands between ``` fences as code."""
    pieces = text.split("```")
    shown = []
    for number, piece in enumerate(pieces):
        if number % 2:
            language, _, code = piece.partition("\n")
            name = html.escape(language.strip())
            shown.append(f'<pre><code class="language-{name}">{html.escape(code)}</code></pre>')
        else:
            shown.append("<br>".join(line for line in piece.split("\n") if line))
    return "".join(shown)


def answer(question, chatbot, max_length, top_p, temperature, history, past_key_values):
    """Stream the answer into the last row of `chatbot`."""
    chatbot.append([to_html(question), ""])
    stream = model.stream_chat(
        tokenizer,
        question,
        history,
        past_key_values=past_key_values,
        return_past_key_values=True,
        max_length=max_length,
        top_p=top_p,
        temperature=temperature,
    )
    for response, history, past_key_values in stream:  # noqa: B020 (each step replaces the state)
        chatbot[-1] = [to_html(question), to_html(response)]
        yield chatbot, history, past_key_values


def empty_input():
    """Clear the text box."""
    return gr.update(value="")


def forget():
    """Clear the chat, its history and the cache."""
    return [], [], None


with gr.Blocks() as demo:
    gr.HTML('<h1 align="center">ChatGLM2-6B (glmbox miniature)</h1>')
    chatbot = gr.Chatbot()
    with gr.Row():
        with gr.Column(scale=4):
            question = gr.Textbox(show_label=False, placeholder="Type a question", lines=8).style(container=False)
            send = gr.Button("Send", variant="primary")
        with gr.Column(scale=1):
            clear = gr.Button("Start over")
            max_length = gr.Slider(0, 32768, value=8192, step=1, label="Longest chat (tokens)", interactive=True)
            top_p = gr.Slider(0, 1, value=0.8, step=0.01, label="top_p", interactive=True)
            temperature = gr.Slider(0, 1, value=0.95, step=0.01, label="temperature", interactive=True)
    history = gr.State([])
    past_key_values = gr.State(None)

    state = [chatbot, history, past_key_values]
    asked = [question, chatbot, max_length, top_p, temperature, history, past_key_values]
    send.click(answer, asked, state, show_progress=True)
    send.click(empty_input, [], [question])
    clear.click(forget, outputs=state, show_progress=True)

demo.queue().launch(share=False, inbrowser=True)
