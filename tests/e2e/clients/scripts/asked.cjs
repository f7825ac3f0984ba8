// What each of Node's clients asks, and how it reports.
const asked = [];

exports.QUESTION = "What is the weather in Oslo?";
exports.GREETING = "How are you?";
exports.WEATHER = {
  name: "get_weather",
  description: "Get the weather of a city",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
exports.weatherIn = ({ city }) => {
  asked.push(city);
  return "sunny";
};
exports.cityAsked = () => asked.join(" ");
exports.print = (report) => process.stdout.write(`${JSON.stringify(report)}\n`);
