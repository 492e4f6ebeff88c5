"""What the iOS driver is made of: the commands of the tools that reach an iPhone, and what their answers mean."""
