export interface Env {
  AI: Ai;
}
export default {
  async fetch(request, env): Promise<Response> {
    const messages = [
      { role: "system", content: "You are a friendly assistant" },
      {
        role: "user",
        content: "What is the origin of the phrase Hello, World",
      },
    ];
    const stream = await env.AI.run("@cf/google/gemma-7b-it-lora", {
      messages,
      stream: true,
    });
    return new Response(stream, {
      headers: { "content-type": "text/event-stream" },
    });
  },
} satisfies ExportedHandler<Env>;
