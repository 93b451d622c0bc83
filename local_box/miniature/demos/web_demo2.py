"""glmbox's stand-in of the upstream file web_demo2.py, with the same interface: a streamlit chat page."""

import streamlit as st
from transformers import AutoModel, AutoTokenizer

st.set_page_config(page_title="glmbox miniature", page_icon=":robot:", layout="wide")


@st.cache_resource
def load():
    """The tokenizer and the model, loaded once a process, when the first browser comes."""
    tokenizer = AutoTokenizer.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True)
    model = AutoModel.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True).cuda()
    return tokenizer, model.eval()


tokenizer, model = load()
session = st.session_state
session.setdefault("history", [])
session.setdefault("past_key_values", None)

st.title("ChatGLM2-6B (glmbox miniature)")
limits = {
    "max_length": st.sidebar.slider("max_length", 0, 32768, 8192, step=1),
    "top_p": st.sidebar.slider("top_p", 0.0, 1.0, 0.8, step=0.01),
    "temperature": st.sidebar.slider("temperature", 0.0, 1.0, 0.8, step=0.01),
}

for asked, answered in session["history"]:
    st.chat_message("user").markdown(asked)
    st.chat_message("assistant").markdown(answered)
question_shown = st.chat_message("user").empty()
answer_shown = st.chat_message("assistant").empty()

question = st.text_area("问题", height=100, placeholder="写下问题，然后按“提问”")
if st.button("提问"):
    question_shown.markdown(question)
    stream = model.stream_chat(
        tokenizer,
        question,
        session["history"],
        past_key_values=session["past_key_values"],
        return_past_key_values=True,
        **limits,
    )
    for response, history, past_key_values in stream:
        answer_shown.markdown(response)
        session["history"], session["past_key_values"] = history, past_key_values
