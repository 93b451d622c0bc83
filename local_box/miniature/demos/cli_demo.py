"""glmbox's stand-in of the upstream file cli_demo.py, with the same interface: a chat in the terminal."""

import os
import platform
import readline  # noqa: F401 (upstream needs it too: a Python built without readline must fail here)

from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True)
model = AutoModel.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True).cuda()
model = model.eval()

GREETING = "glmbox 微型模型：输入问题即可对话；输入 clear 重新开始，输入 stop 退出。"
CLEAR_SCREEN = "cls" if platform.system() == "Windows" else "clear"


def answer(question, history, past_key_values):
    """Print the answer as it grows; return the history and the cache after it."""
    shown = 0
    stream = model.stream_chat(
        tokenizer, question, history=history, past_key_values=past_key_values, return_past_key_values=True
    )
    for response, history, past_key_values in stream:  # noqa: B007, B020 (each step replaces the state)
        print(response[shown:], end="", flush=True)
        shown = len(response)
    print()
    return history, past_key_values


def main():
    """Read questions from standard input until the word stop."""
    history, past_key_values = [], None
    print(GREETING)
    while True:
        question = input("\n用户：").strip()
        if question == "stop":
            return
        if question == "clear":
            history, past_key_values = [], None
            os.system(CLEAR_SCREEN)
            print(GREETING)
            continue
        print("\nChatGLM：", end="")
        history, past_key_values = answer(question, history, past_key_values)


if __name__ == "__main__":
    main()
