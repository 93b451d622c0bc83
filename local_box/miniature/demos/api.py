"""glmbox's stand-in of the upstream file api.py, with the same interface: one JSON route, POST /."""

import datetime

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModel, AutoTokenizer

DEVICE = "cuda"
DEVICE_ID = "0"

app = FastAPI()


def free_gpu_memory() -> None:
    """Hand cached memory of the first GPU back to the driver, where there is a GPU."""
    if not torch.cuda.is_available():
        return
    with torch.cuda.device(f"{DEVICE}:{DEVICE_ID}"):
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()


@app.post("/")
async def answer_prompt(request: Request) -> dict:
    """Answer `prompt`; generation blocks the event loop, as it does upstream."""
    wanted = await request.json()
    prompt = wanted.get("prompt")
    response, history = model.chat(
        tokenizer,
        prompt,
        history=wanted.get("history"),
        max_length=wanted.get("max_length") or 2048,
        top_p=wanted.get("top_p") or 0.7,
        temperature=wanted.get("temperature") or 0.95,
    )
    moment = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
    # A request without a prompt fails here, after generation: upstream has the same fault.
    print(moment + " asked: " + prompt + " answered: " + repr(response))
    free_gpu_memory()
    return {"response": response, "history": history, "status": 200, "time": moment}


if __name__ == "__main__":
    tokenizer = AutoTokenizer.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True)
    model = AutoModel.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True).cuda()
    model.eval()
    uvicorn.run(app, host="0.0.0.0", port=8000, workers=1)
