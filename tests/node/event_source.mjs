// What a browser has and Node 20 has not: EventSource, as far as the provider uses it.
export class EventSource {
  static CLOSED = 2;
  constructor(url) {
    this.url = url;
    this.readyState = 0;
    this.aborter = new AbortController();
    void this.read();
  }
  addEventListener(name, listener) {
    this[`on${name}`] = listener;
  }
  removeEventListener() {}
  async read() {
    try {
      const answer = await fetch(this.url, { headers: { accept: "text/event-stream" }, signal: this.aborter.signal });
      if (!answer.headers.get("content-type").startsWith("text/event-stream")) throw new Error(await answer.text());
      this.readyState = 1;
      this.onopen?.({});
      let text = "";
      for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
        text += part;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
          if (data.length) this.onmessage?.({ data: data.join("\n") });
        }
      }
    } catch (error) {
      if (this.readyState !== 2) this.onerror?.({ error });
    }
  }
  close() {
    this.readyState = 2;
    this.aborter.abort();
  }
}
