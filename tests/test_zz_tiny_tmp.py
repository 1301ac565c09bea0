import sys; sys.path.insert(0,'/work/main')
import pytest
from pathlib import Path
def test_x(tiny_model_dir, tmp_path):
    import ray
    from components.models.engine import sample, Sampling, EngineConfig
    from components.data.chat import ChatTemplate
    c=ChatTemplate.from_folder(tiny_model_dir)
    ray.init(num_cpus=2,include_dashboard=False,logging_level="warning")
    rows=[{"prompt_ids":c.prompt_ids([{"role":"user","content":f"Hello {i}?"}])} for i in range(4)]
    a=sample(rows,tiny_model_dir,Sampling(n=2,temperature=0.8,top_p=0.95,max_new_tokens=8),EngineConfig(),seed=3)
    b=sample(rows,tiny_model_dir,Sampling(n=2,temperature=0.8,top_p=0.95,max_new_tokens=8),EngineConfig(),seed=3)
    for x,y in zip(a,b): print(repr(x["text"]),x["tokens"],x["finished"],x["sample"],x["text"]==y["text"])
    ray.shutdown()
